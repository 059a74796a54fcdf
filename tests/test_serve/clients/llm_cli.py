"""https://llm.datasette.io/en/stable/other-models.html#openai-compatible-models"""

import os
import subprocess
import sys
from pathlib import Path

base, model = sys.argv[1:]
Path(os.environ["LLM_USER_PATH"]).mkdir(exist_ok=True)
(Path(os.environ["LLM_USER_PATH"]) / "extra-openai-models.yaml").write_text(
    f"- model_id: mine\n  model_name: {model}\n  api_base: {base}/v1\n  api_key_name: openai\n"
)
command = str(Path(sys.executable).with_name("llm"))
subprocess.run([command, "-m", "mine", "Five outrageous names for a pet pelican"], check=True)
subprocess.run([command, "-m", "mine", "-o", "max_tokens", "2000", "hi"], check=True)
