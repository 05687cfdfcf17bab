"""Hot steps around the engine on a GPU, in Triton (extra "gpu"), for tensors that are there already.

Each kernel has a NumPy counterpart that it equals exactly: `kernels.nms` `xinfer.postproc.nms`, and
`kernels.image` the table of `xinfer.preproc.ImageProcessor`. Without a GPU they run in Triton's interpreter
(`TRITON_INTERPRET=1`, set before the first import), which the tests do.
"""
