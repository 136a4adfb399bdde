"""Direct TCP transport of SMB2 frames ([MS-SMB2] 2.1): whole frames in, batches of replies out, all in pool buffers."""
