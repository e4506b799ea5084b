"""What other code made, taken over; and sets of disjoint classes joined."""
