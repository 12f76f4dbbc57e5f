"""Where arrays live and programs run: devices, compiled programs and their books, streaming, cached decoding."""
