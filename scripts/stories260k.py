"""Convert the stories260k weights to a transformers folder: stories260k.py FOLDER"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import tiny

if __name__ == "__main__":
    folder = tiny.stories260k(Path(sys.argv[1]))
    print(folder or "../shared/data/stories260k is not there")
