"""How requests come: schedules drawn in advance, and the two loops that keep to them."""
