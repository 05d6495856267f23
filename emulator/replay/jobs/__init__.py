"""The replays of a comparison as jobs: what each is, where it runs, and which have been done before."""
