"""Torch's pickled files read as descriptions, so that no file can make this program do anything.

    names        which names a file may hold
    tensors      what torch says of a tensor: where its numbers lie
    machine      a pickle's instructions, run into containers and records
    torch_files  torch's zip and older format around them

What the records mean, which model they are, is the business of the tokenizers.
"""
