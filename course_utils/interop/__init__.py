"""The course's models in the field's own words, both ways.

our modules ◄──► diffusers' modules ◄──► a folder that `from_pretrained` opens
our LoRAs   ◄──► files of peft, diffusers and kohya
"""
