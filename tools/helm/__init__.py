"""The Helm chart, generated from the Kustomize base so that the two cannot disagree."""
