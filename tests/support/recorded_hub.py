"""A hub that keeps what is pushed to it."""


class Hub:
    """Stands for huggingface_hub.HfApi, whose server cannot be reached from a test."""

    def __init__(self, fails=False):
        self.files, self.repos, self.fails = {}, [], fails

    def create_repo(self, repo, **options):
        self.repos.append((repo, options))

    def create_commit(self, repo, operations, **options):
        if self.fails:
            raise OSError("no connection")
        self.files |= {o.path_in_repo: o.path_or_fileobj for o in operations}
