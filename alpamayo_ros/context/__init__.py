"""From stamped frames and poses to a Context: buffer, streams, frame selection and ego history."""
