"""What every program of the package needs: atomic files, tensor files, random streams, logging, devices."""
