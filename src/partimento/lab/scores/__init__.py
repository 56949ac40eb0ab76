"""The figures of `score`: what each is (`table`), of one sound (`music`), of a set (`sets`), against what was asked
(`following`). Nothing here is imported before it is needed: `table` is read by the command's help."""
