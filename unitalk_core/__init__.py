"""UniTalking (arXiv 2603.01418) as a library: one diffusion transformer makes picture and speech together.

Knows no host. `pipeline.py` is the whole path in one readable function; `models/mmdit.py` is the network.
"""

__version__ = "0.1.0"
