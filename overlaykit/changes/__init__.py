"""Changes: what an upper changes of the layers below it, to be shown and to be applied.

May import: `overlay`, `layers`, the ground floor and the standard library; it knows nothing of FUSE, processes or the
registry. Start reading at `model` (a `Change`), then `read` (from an upper and its lowers to changes), then `applying`
(from changes to the layer): `planning` decides, `staging` makes new files, `run` takes the steps of a `journal`.

What reads an upper writes nothing. Its view may run: a file that goes or changes is no error. While changes
are applied, no view may use the upper or the layer.
"""
