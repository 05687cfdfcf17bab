// The playground: one input goes to the endpoint, its answer is shown in the task's own terms.

import { startImage } from "./playground-image.js";
import { startSeries } from "./playground-series.js";
import { startText } from "./playground-text.js";

const KINDS = { image: startImage, text: startText, series: startSeries };

export function startPlayground(root) {
  (KINDS[root.dataset.kind] ?? startImage)(root);
}
