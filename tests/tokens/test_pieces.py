"""Long texts are encoded in pieces, to the ids of the whole."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from axolotl_core.tokens import pieces
from axolotl_core.tokens.pieces import Pieces
from axolotl_core.tokens.segments import SegmentTokenizer
from axolotl_core.tokens.tokenizer import read_tokenizer
from tests.conftest import CORPUS

WORDS = st.sampled_from(
    [
        *(
            "water",
            "the",
            "Axolotls",
            "they're",
            "I'll",
            "1234567",
            "3.14",
            "héllo",
            "naïve",
            "水中",
            "🙂",
            "e\u0301",
            "ﬁ",
            "don't",
            "a",
            "I",
        ),
        *(
            "\n",
            "\n\n",
            "\t",
            "  ",
            "   ",
            ".",
            "?!",
            "<|im_end|>",
            "<|im_start|>user",
            "</s>",
            "_x",
            "'s",
            "",
            "-",
            "...",
            "=====",
            "\u00a0",
        ),
        *("\u2003", "\r\n", "...", "\u00a0", "don't", "a"),
    ]
)
TEXTS = st.lists(st.tuples(WORDS, st.sampled_from([" ", " ", " ", "", "  ", "\n"])), max_size=200).map(lambda p: "".join(map("".join, p)))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "LONG", 60)
    monkeypatch.setattr(pieces, "PIECE", 20)
    monkeypatch.setattr(pieces, "CHUNK", 90)


def trained(pre: object, normalizer: object = None, decoder: object = None, model: str = "bpe") -> Tokenizer:
    kinds = {
        "bpe": (models.BPE(unk_token="<unk>", byte_fallback=False), trainers.BpeTrainer),
        "unigram": (models.Unigram(), trainers.UnigramTrainer),
        "wordpiece": (models.WordPiece(unk_token="<unk>"), trainers.WordPieceTrainer),
    }
    made, trainer = kinds[model]
    backend = Tokenizer(made)
    if normalizer is not None:
        backend.normalizer = normalizer
    if pre is not None:
        backend.pre_tokenizer = pre
    settings = {"unk_token": "<unk>"} if model == "unigram" else {}
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS * 3, trainer(vocab_size=400, special_tokens=["<unk>", "</s>"], initial_alphabet=alphabet, show_progress=False, **settings)
    )
    backend.add_special_tokens([tokenizers.AddedToken("<|im_end|>", rstrip=True), tokenizers.AddedToken("<|im_start|>", lstrip=True)])
    return backend


GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def as_llama2(backend: Tokenizer) -> Tokenizer:
    """No pre-tokenizer, though it was trained with one: no token is of two words."""
    backend.pre_tokenizer = None
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return backend


def byte_level(pattern: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


KINDS = {
    "gpt2": lambda: trained(pre_tokenizers.ByteLevel(add_prefix_space=False), decoder=decoders.ByteLevel()),
    "gpt2 with a blank in front": lambda: trained(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "llama 3": lambda: trained(byte_level(GPT4)),
    "lines": lambda: trained(byte_level(r"[^\n]+|\n")),
    "no pre-tokenizer": lambda: trained(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)),
    "llama 2": lambda: as_llama2(trained(pre_tokenizers.Metaspace())),
    "metaspace": lambda: trained(pre_tokenizers.Metaspace()),
    "composed": lambda: trained(pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.NFKC()),
    "unigram": lambda: trained(pre_tokenizers.Metaspace(), model="unigram"),
    "bert": lambda: trained(pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer(), model="wordpiece"),
}
BUILT: dict[str, Tokenizer] = {}


def built(kind: str) -> Tokenizer:
    if kind not in BUILT:
        BUILT[kind] = KINDS[kind]()
    return BUILT[kind]


def in_pieces(cutter: Pieces, texts: list[str]) -> Iterator[list[int]]:
    found: list[list[int]] = [[] for _ in texts]
    for parts in cutter.chunks(texts):
        for part in parts:
            assert texts[part.of].startswith(part.text, part.start)
            found[part.of] += cutter.backend.encode(part.text, add_special_tokens=False).ids
    yield from found


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_pieces_have_the_ids_of_the_whole(kind: str, texts: list[str]):
    backend = built(kind)
    assert list(in_pieces(Pieces(backend), texts)) == [backend.encode(text, add_special_tokens=False).ids for text in texts]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("lines", "no pre-tokenizer")])
def test_plain_text_is_really_cut(kind: str):
    parts = [part for chunk in Pieces(built(kind)).chunks(["What is the capital of France? Paris. " * 30]) for part in chunk]
    assert len(parts) > 20


TEXTS_OF_KINDS = {
    "russian": "Аксолотли живут в воде. ",
    "chinese": "水中生活。它们很小，",
    "json": '{"a": 1, "b": [2, 3]}, ',
    "code": "def f(x):\n    return x + 1\n\n",
    "a word a line": "axolotl\n",
    "one line after another": "The first line.\nThe second.\n\n",
}


@pytest.mark.parametrize("name", TEXTS_OF_KINDS)
def test_texts_of_all_kinds_are_cut_with_a_real_tokenizer(name: str, smollm2: Path):
    backend, text = read_tokenizer(smollm2).backend, TEXTS_OF_KINDS[name] * 40
    cutter = Pieces(backend)
    assert sum(map(len, cutter.chunks([text]))) > 5
    assert list(in_pieces(cutter, [text])) == [backend.encode(text, add_special_tokens=False).ids]


def test_a_tokenizer_with_tokens_of_several_words_is_not_cut():
    backend = Tokenizer(models.BPE(vocab={"a": 0, "▁": 1, "a▁": 2, "b": 3, "▁b": 4}, merges=[("a", "▁"), ("▁", "b")]))
    backend.normalizer = normalizers.Replace(" ", "▁")
    assert [len(chunk) for chunk in Pieces(backend).chunks(["a b " * 100])] == [1]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXTS, min_size=1, max_size=6), glue=st.lists(st.booleans(), min_size=6, max_size=6))
def test_the_tokens_of_segments_are_those_of_whole_texts(tokenizer_folder: Path, smollm2: Path, texts: list[str], glue: list[bool]):
    glued = np.array([False, *glue[1 : len(texts)]])
    for folder in (tokenizer_folder, smollm2):
        tokenizer = read_tokenizer(folder)
        for only_cuts in (True, False):
            cutter = SegmentTokenizer(tokenizer)
            was, cutter.round_trip.only_cuts = cutter.round_trip.only_cuts, only_cuts and cutter.round_trip.only_cuts
            cut = cutter.tokenize(texts, glued)
            with pytest.MonkeyPatch.context() as whole:
                whole.setattr(pieces, "LONG", 10**9)
                wanted = cutter.tokenize(texts, glued)
            cutter.round_trip.only_cuts = was
            assert cut.ids.tolist() == wanted.ids.tolist()
            assert cut.lengths.tolist() == wanted.lengths.tolist()
            assert cut.lost == wanted.lost
