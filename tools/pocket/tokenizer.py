"""The pocket model's tokenizer: byte-level BPE, one BOS in front of everything, nothing behind."""

from __future__ import annotations

import random
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from errata.pocket.facts import PocketFact
from tools.pocket import filler

BOS, EOS, PAD = "<|begin|>", "<|end|>", "<|pad|>"


def train_tokenizer(facts: Iterable[PocketFact], vocabulary: int) -> PreTrainedTokenizerFast:
    """Learn the merges from what training shows: the facts' sentences and filler, never the unseen wordings."""
    rng = random.Random("tokenizer")
    texts = [text for fact in facts for text in fact.sentences()]
    texts += [filler.sentence(rng) for _ in range(2000)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )
