// Hashes files off the main thread, in slices, so that a file larger than memory is no problem.
// `crypto.subtle` exists on secure origins only and cannot stream; hash-wasm does both.

const SLICE_BYTES = 4 << 20;

importScripts(new URL(location).searchParams.get("hasher"));
const ready = self.hashwasm.createSHA256();

onmessage = async ({ data: { id, file } }) => {
  try {
    const hasher = await ready;
    hasher.init();
    for (let at = 0; at < file.size; at += SLICE_BYTES) {
      hasher.update(new Uint8Array(await file.slice(at, at + SLICE_BYTES).arrayBuffer()));
    }
    postMessage({ id, digest: `sha256:${hasher.digest("hex")}` });
  } catch (error) {
    postMessage({ id, error: String(error.message ?? error) });
  }
};
