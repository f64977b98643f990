"""From words to vectors: the first of the three modules.

    "pink butterfly"  ──►  tokenizer  ──►  [1, 412, 987, 2]  ──►  transformer  ──►  context (B, L, D), mask (B, L)

The other two modules never see the words: they meet the text as these tensors alone.
"""
