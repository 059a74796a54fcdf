"""Imported ahead of time, so that a model which is loaded later finds done what transformers does once a process.

Its table of renamed weights is built of a thousand regular expressions when the first model is loaded.
"""

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

get_checkpoint_conversion_mapping("llama")
