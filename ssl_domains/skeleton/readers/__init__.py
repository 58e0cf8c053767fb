"""Files of skeletons and sensors, read into recordings."""
