"""Medical volumes: scans with spacing, orientation and a patient."""
