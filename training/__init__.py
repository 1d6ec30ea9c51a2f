"""Train, evaluate and export hierarchical ensembles.

cli        `hne-train train | evaluate | export`
config     one definition of every setting: flags, checkpoint contents, the paper's defaults
data       datasets as three splits (train, held out, test); `images` holds the pixels, `augment` crops and flips
losses     Eqs. 3 to 6 as pure functions of the leaf logits; `schedule` the learning rate
trainer    train -> train_epoch -> train_step, interruptible; `run_state` its file, `progress` its bar and log
evaluation every ensemble size 1..N; `calibration` temperatures, `plots` the picture
export     a trained run to a model package for serving
"""

import os

# ONNX Runtime's wheels report every session to their maker over the network unless this is set before the first import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
