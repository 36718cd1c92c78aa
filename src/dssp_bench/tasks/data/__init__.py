"""Data sets, one file each; `files` says where they are kept, `download` fetches those that torchvision knows."""
