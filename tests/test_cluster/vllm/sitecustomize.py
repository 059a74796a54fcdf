"""Folders of PYTHONPATH have no .pth files by themselves; an environment's packages may need theirs."""

import site

site.addsitedir("/opt/vllm")
