"""The stages of dvc.yaml: each is one file with one function, which reads and writes files. A stage imports no other stage."""
