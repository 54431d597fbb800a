"""Texts for the model: class lists and captions become prompts, spans become maps of token positions.

Only this package knows how captions are built and how their words are linked to tokens; it holds no parameters.  nltk
and transformers are loaded by the first call that needs them, never by an import.
"""

from maskrcnn_benchmark.text.caption import prompt_from_caption, prompts_from_caption
from maskrcnn_benchmark.text.class_names import clean_name, split_class_text
from maskrcnn_benchmark.text.noun_phrases import NounPhrase, find_noun_phrases
from maskrcnn_benchmark.text.prompt import Prompt, build_prompts, prompt_from_text
from maskrcnn_benchmark.text.tokenizer import build_tokenizer

__all__ = [
    "NounPhrase",
    "Prompt",
    "build_prompts",
    "build_tokenizer",
    "clean_name",
    "find_noun_phrases",
    "prompt_from_caption",
    "prompt_from_text",
    "prompts_from_caption",
    "split_class_text",
]
