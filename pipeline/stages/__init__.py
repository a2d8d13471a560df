"""The stages of dvc.yaml: one file and one function a stage, files in and files out. A stage knows no other stage."""
