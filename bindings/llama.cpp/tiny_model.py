#!/usr/bin/env python3
"""Writes a tiny llama-architecture model (GGUF, about 260 KB) for tests: `tiny_model.py FILE`.

Its weights are random, from a fixed seed, so what it says means nothing; everything else is as in a real model: a chat
template, a SentencePiece vocabulary with byte fallback (so pieces can be invalid UTF-8), an end-of-generation token.
The file is byte-identical on every run: the random numbers are MT19937's, which numpy has frozen, used without any
function whose last bit depends on the machine.
"""

import sys

import gguf
import numpy as np

CONTEXT, EMBEDDING, LAYERS, HEADS, KV_HEADS, FEED_FORWARD = 2048, 64, 2, 4, 2, 128
VOCABULARY = 400

START, END = "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WORDS = (
    "the and of to is in that it for you with on are this answer energy joule token model user system question "
    "assistant short long story"
).split()
SENTENCE_ENDS = ".!?"


def vocabulary():
    """(text, type) of each of the 400 tokens; `▁` is SentencePiece's space."""
    kind = gguf.TokenType
    tokens = [("<unk>", kind.UNKNOWN), (START, kind.CONTROL), (END, kind.CONTROL)]
    tokens += [(f"<0x{byte:02X}>", kind.BYTE) for byte in range(256)]
    tokens += [("▁", kind.NORMAL)] + [(chr(code), kind.NORMAL) for code in range(0x21, 0x7F)]
    # SentencePiece builds a word from left to right, so every beginning of a word has to be a token as well.
    beginnings = dict.fromkeys("▁" + word[:length] for word in WORDS for length in range(1, len(word) + 1))
    tokens += [(text, kind.NORMAL) for text in beginnings]
    return tokens[:VOCABULARY]


def tensors(tokens):
    random = np.random.RandomState(20240229)

    def uniform(rows, columns, reach):
        return (random.random_sample((rows, columns)) * 2 - 1) * reach

    # One direction of the residual stream, the last, is kept for "a sentence has just ended": only the tokens that end
    # one write to it and only the end-of-generation token reads it. So answers are neither empty nor endless.
    ended = EMBEDDING - 1
    embedding = uniform(VOCABULARY, EMBEDDING, 1.0)
    output = uniform(VOCABULARY, EMBEDDING, 0.25)
    embedding[:, ended] = output[:, ended] = 0
    for number, (text, kind) in enumerate(tokens):
        if kind == gguf.TokenType.CONTROL or kind == gguf.TokenType.UNKNOWN:
            output[number] = 0
        elif text in SENTENCE_ENDS:
            embedding[number, ended] = 8
        if len(text) > 2 and text.startswith("▁") or text in SENTENCE_ENDS:
            output[number] *= 3  # more words than noise
    output[[text for text, _ in tokens].index(END), ended] = 8

    yield "token_embd.weight", embedding
    for layer in range(LAYERS):
        head = EMBEDDING // HEADS
        shapes = {
            "attn_q": (EMBEDDING, EMBEDDING),
            "attn_k": (KV_HEADS * head, EMBEDDING),
            "attn_v": (KV_HEADS * head, EMBEDDING),
            "attn_output": (EMBEDDING, EMBEDDING),
            "ffn_gate": (FEED_FORWARD, EMBEDDING),
            "ffn_up": (FEED_FORWARD, EMBEDDING),
            "ffn_down": (EMBEDDING, FEED_FORWARD),
        }
        for name, (rows, columns) in shapes.items():
            weight = uniform(rows, columns, (3.0 / columns) ** 0.5)
            if name in ("attn_output", "ffn_down"):
                weight[ended] = 0
            yield f"blk.{layer}.{name}.weight", weight
        yield f"blk.{layer}.attn_norm.weight", np.ones(EMBEDDING)
        yield f"blk.{layer}.ffn_norm.weight", np.ones(EMBEDDING)
    yield "output_norm.weight", np.ones(EMBEDDING)
    yield "output.weight", output


def main(path):
    tokens = vocabulary()
    assert len(tokens) == VOCABULARY, f"{len(tokens)} tokens: add words"

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("TokenJoule tiny test model (random weights)")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_vocab_size(VOCABULARY)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(EMBEDDING)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(EMBEDDING // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)

    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_scores([float(-number) for number in range(VOCABULARY)])
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)

    for name, values in tensors(tokens):
        writer.add_tensor(name, values.astype(np.float32 if values.ndim == 1 else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: tiny_model.py FILE")
    main(sys.argv[1])
