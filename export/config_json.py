"""config.json and generation_config.json of a model folder, as `transformers` reads them."""


def config_json(shape, tokenizer):
    """The config.json of a model of this shape (a dict of GPTConfig's or ScalarConfig's fields)."""
    shape = {**shape, "n_positions": shape["block_size"], "bos_token_id": shape["eos_token_id"],
             "n_ctx": shape["block_size"]}      # the old name, which llama.cpp's converter reads
    eos, eos_is_pad = shape["eos_token_id"], shape.pop("eos_is_pad", None)
    del shape["block_size"]
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"],
              "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
              "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, **shape}
    if tokenizer:
        config.update(tokenizer_name=tokenizer.name, tokenizer_fingerprint=tokenizer.fingerprint)
        if not tokenizer.framed:        # its prompts are texts as they are, and no dialogues
            config["framed"] = False
        if tokenizer.questions:         # it has read no second turn, and chat.py shows it none
            config["questions"] = tokenizer.questions
    if eos_is_pad is not None:          # a reward model or critic
        # transformers reads the score at the last token that is not its pad id, and a text ends
        # with <|endoftext|>: so the pad id is a different one, with which no scored text ends.
        config.update(architectures=["GPT2ForSequenceClassification"], id2label={"0": "reward"},
                      label2id={"reward": 0}, pad_token_id=eos if eos_is_pad else 0)
    return config


def generation_json(config):
    """How `transformers` responds unless it is told otherwise. Half of the positions are for the
    response, as in chat.py."""
    eos = config["eos_token_id"]
    return {"bos_token_id": eos, "eos_token_id": eos, "pad_token_id": eos, "do_sample": False,
            "max_new_tokens": config["n_positions"] // 2}
