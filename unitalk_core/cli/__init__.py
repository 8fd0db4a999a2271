"""The commands of `python -m unitalk_core`, one file each: `add_arguments(parser)`, `run(args) -> exit code`.

Heavy imports are inside the functions, so that the command line answers at once.
"""
