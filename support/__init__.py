"""What every stage needs and none is about, one subject a file. Nothing here imports a script or `data`.

    command_line    flags, their limits, the device, what a user sees when something is wrong
    presets         other defaults for OpenAI's GPT-2s
    runs            the folder of a run, in which each stage finds the models of the stages before it
    hub             Hugging Face's cache and downloads
    checkpoint      model folders as `transformers` writes and reads them
    trainable       which weights move: all, the last N blocks, LoRA adapters
    optimizer       AdamW, the learning rate, one step
    monitor         what must be true on every PPO run, its metrics, its samples
    memory          the four models of PPO in figures, and whether they fit the GPU
    resume          going on after an interruption
    log             progress bar and TensorBoard
    chat            talking to a model
    files, errors   whole files or none; one sentence instead of a traceback
"""
