"""Cures written by hand, for messages that do not say all of it themselves: a part of a message, and what to do.

A part that no message has any more fails a test, and so does a message without a hint of its own that no part is in.
"""

CURES: dict[str, str] = {
    # loading
    "problem is for the classification of whole texts": "leave it out, or load with head='classification'",
    "labels and problem are for a classification head": "leave them out, or load with head='classification'",
    " has one label, got": "name one label; for several values train one model each",
    "⟨heads⟩ heads do not divide": "config.json contradicts itself: copy the checkpoint anew",
    "key-value groups do not divide": "config.json contradicts itself: copy the checkpoint anew",
    "cannot be read (": "look at the file's rights and the disk; copy the checkpoint anew",
    "which is no ⟨suffix⟩ file": "the index is of another checkpoint: copy index and files anew",
    "because it changes the result": "the setting asks for mathematics that is not built in: take a checkpoint "
    "without it",
    "but id2label names": "make num_labels and id2label of config.json agree, or pass labels=",
    "cannot be rotated in pairs": "heads of odd width are not supported",
    "rotary frequencies do not fit heads of width": "config.json contradicts itself: copy the checkpoint anew",
    "⟨kind⟩ file, which ⟨format⟩": "install the package that is named, or save the tokenizer as tokenizer.json",
    "--ignore-config-key": "where you know the settings to be harmless, add the flag as it is printed; in Python "
    "jp.load(ignore_config_keys=[…])",
    "has model_type": "[a family of your own](own-family.md)",
    "is a Git LFS pointer": "the file was cloned without its contents",
    "do not fit its config.json": "the weights are of another model than config.json says",
    "there is no folder": "on a machine without network only folders and the hub's cache work",
    # data
    "belongs to --task text": "leave it out; --limit scores the first texts of other tasks",
    "--set-aside belongs to --task chat": "leave it out; other tasks have files for what is scored",
    "--min-score belongs to --task pairs": "leave it out; other tasks train on all rows",
    "the chat template leaves nothing": "use a template that writes what the assistant says, or write prompt and "
    "completion",
    "not JSON (": "the line that is shown: one object a line, in UTF-8, or one array",
    "holds no text.": "give a file with text in it",
    "SQuAD has versions 1 and 2": "pass version=1 or version=2",
    "belong to the task": "leave them out, or name the task that has them",
    "label ⟨targets⟩ of example": "labels are counted from 0; load the model with the task's labels",
    # generating, timing
    "which is no token": "take ids below the number that is named",
    "the model's embedding has": "the ids are another tokenizer's: take the model's own",
    "new ones exceed the model's": "shorten the prompt or ask for fewer new tokens",
    "is more than the model's": "take a length that the model has positions for",
    "tokens do not fit the model's": "take a length that the model has positions for, with --seq-len or --length",
    # training
    "with lora, name the other leaves": "Lora(train=('head/*',)) instead of trainable=",
    "the teacher's tokenizer cannot read the training texts": "take a teacher with the model's tokenizer; what is "
    "wrong with its own follows",
    "holds tensors of no PEFT adapter": "give an adapter's folder, as PEFT's save_pretrained writes it",
    "for which the model has no place": "the adapter was trained on another model: load that one",
    "round ⟨number⟩ of ⟨rounds⟩": "what went wrong in the round follows; the state of the round before is kept and "
    "`resume` goes on from it",
    "No space left on device": "make room, or choose another place with `out`",
    # devices
    "there is no device ⟨where⟩": "name one that the message lists; `jax.devices()` shows them; the "
    "extras cuda12, cuda13 and tpu of jaxprune bring others",
    # numbers
    "NaN or Inf in the activations or gradients": "the layer that is named overflows or is damaged: copy the "
    "checkpoint anew, or take it in float32",
}
