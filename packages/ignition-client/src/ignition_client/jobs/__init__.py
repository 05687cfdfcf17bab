"""What a job does, in a process of its own: ``python -m ignition_client.jobs <folder>``.

The only part of the client that imports xtorch and xinfer. The folder is described in ARCHITECTURE 10.2.
"""
