"""Synchronisation paradigms, one file each; none knows another.

A paradigm is a dataclass whose fields are its options. Adding one takes this folder's file, a YAML in `conf/paradigm/`
whose `_target_` names it, and its tests.
"""
