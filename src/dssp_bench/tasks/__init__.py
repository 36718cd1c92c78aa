"""What is trained: a network, a data set, the loss and the evaluation.

- `task`: data and network sources (contracts), normalisation, augmentation, and the task made of them
- `sharding`: which worker trains on which examples, and in which order
- `data/`: one file per data set; `models/`: one file per network
- `torchvision_import`: imports torchvision where its compiled operators do not load

A data set or network is a dataclass whose fields are its options. Adding one takes one file and a YAML in
`conf/dataset/` or `conf/model/` whose `_target_` names it.
"""
