"""Programs that use Swell as its users would. Each one runs, and each has a README."""
