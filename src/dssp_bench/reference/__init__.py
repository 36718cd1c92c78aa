"""What the DSSP paper published: its numbers (`published`) and its statements (`claims`), shipped as data files.

`README.md` in this folder says where each number comes from.
"""
