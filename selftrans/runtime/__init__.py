"""What every program needs: atomic files, tensor files, random streams, logging, devices."""
