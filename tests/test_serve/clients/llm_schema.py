"""https://llm.datasette.io/en/stable/schemas.html, with an OpenAI-compatible model."""

import os
import subprocess
import sys
from pathlib import Path

base, model = sys.argv[1:]
Path(os.environ["LLM_USER_PATH"]).mkdir(exist_ok=True)
(Path(os.environ["LLM_USER_PATH"]) / "extra-openai-models.yaml").write_text(
    f"- model_id: mine\n  model_name: {model}\n  api_base: {base}/v1\n  api_key_name: openai\n"
    "  supports_schema: true\n  supports_tools: true\n"
)
command = str(Path(sys.executable).with_name("llm"))
subprocess.run([command, "-m", "mine", "--schema", "name, age int, one_sentence_bio", "invent a cool dog"], check=True)
