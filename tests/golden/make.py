"""Write the golden files. Only for a new version of the formats: files that exist must stay readable."""

import json
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent

if __name__ == "__main__":
    sys.path.insert(0, str(FOLDER.parent))
    import traces_samples as samples

    import traces

    samples.model(layers=1, inputs=3, hidden=4, embedding=5).write(FOLDER / "model.h5")
    samples.model(layers=1, inputs=3, hidden=4, projection=2, directions=1).write(FOLDER / "projected.h5")
    samples.model(layers=1, inputs=3, hidden=4, directions=1, peepholes=True).write(FOLDER / "peepholes.h5")
    samples.data().write(FOLDER / "data.h5")
    samples.data(features=0, scope="last").write(FOLDER / "tokens.h5")
    samples.data(scope="targets").write(FOLDER / "targets.h5")
    samples.data(features=0, scope="sequence").write(FOLDER / "sequences.h5")
    samples.trace(FOLDER / "trace.h5", layers=samples.SIZES[1:])
    samples.trace(FOLDER / "trace_peepholes.h5", layers=[(*size, True) for size in samples.SIZES[1:]])
    samples.estimate().write(FOLDER / "estimate.h5")
    digests = {}
    for path in sorted(FOLDER.glob("*.h5")):
        content = traces.open(path)
        digests[path.name] = None if isinstance(content, traces.Estimate) else content.digest()
    (FOLDER / "digests.json").write_text(json.dumps(digests, indent=2) + "\n")
