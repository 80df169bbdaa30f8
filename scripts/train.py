"""What `accelerate launch` starts; the same code as `distill train`.

accelerate launch scripts/train.py configs/run/decoder.yaml routers.decoder.train.epochs=1
"""

import sys

from distill.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
