"""https://github.com/EleutherAI/lm-evaluation-harness: local-completions tells the log-likelihoods that hf computes.

Prints the largest difference, and whether both find the same continuations greedy.
"""

import sys

import ams_pod.engines.builtin  # noqa: F401  # makes torchvision importable
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.openai_completions import LocalCompletionsAPI

base, model, folder, context, greedy = sys.argv[1:]
TEXTS = [
    ("The answer is", " the dog and a cat."),
    ("what is", " two and three"),
    ("one two three", " who are you? I see the red house by the water."),
    ("", "hello world"),
    (context, greedy),
]
requests = [
    Instance(request_type="loglikelihood", doc={}, arguments=text, idx=number) for number, text in enumerate(TEXTS)
]
expected = HFLM(pretrained=folder, device="cpu", dtype="float32", batch_size=1).loglikelihood(requests)
worst, alike = 0.0, True
for tokenized in (True, False):
    for batch in (1, 4):
        api = LocalCompletionsAPI(
            model=model,
            base_url=f"{base}/v1/completions",
            tokenizer=folder,
            tokenizer_backend="huggingface",
            tokenized_requests=tokenized,
            batch_size=batch,
            max_length=1024,
        )
        for (ours, we), (theirs, they) in zip(api.loglikelihood(requests), expected, strict=True):
            worst, alike = max(worst, abs(ours - theirs)), alike and we == they
print(f"{worst:.6f} {alike} {sum(is_greedy for _, is_greedy in expected)}")
