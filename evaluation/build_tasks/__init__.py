"""Scripts that write the task files of the evaluation from the data of packages; no part of the wheel."""
