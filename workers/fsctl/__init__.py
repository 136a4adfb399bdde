"""What FSCTLs do, a function each: ``call(request, input, max_output)`` gives the output buffer."""
