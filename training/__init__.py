"""Train, evaluate and export hierarchical ensembles.

cli        `hne-train train | evaluate | export | study`; `arguments` its flags, `signals` how it is stopped
run        a run from outside: begun, opened, evaluated
config     one definition of every setting: flags, checkpoint contents, the paper's defaults
data       datasets as three splits (train, held out, test); `images` holds the pixels, `augment` crops and flips
losses     Eqs. 3 to 6 as pure functions of the leaf logits; `schedule` the learning rate
mixing     mixup and CutMix; `averaging` of the weights, `teacher` beside y_E: the better recipe
trainer    train -> train_epoch -> train_step, interruptible; `run_state` its file and `lock` the right to write it,
           `progress` its bar and log
optimizer  SGD with a rate for every level of the tree
evaluation every ensemble size 1..N; `calibration` temperatures, `streams` flips and early stops, `plots` the picture
studies    the paper's tables and figures from trained runs
export     a trained run to a model package for serving
"""

import os

# ONNX Runtime's wheels report every session to their maker over the network unless this is set before the first import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
