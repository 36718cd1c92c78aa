"""What a run leaves on disk, and the truth about it: `schema` says what, `writer` writes it as the run goes, `reader`
reads it back, finished or not, and `files` writes the small JSON and YAML files beside it."""
