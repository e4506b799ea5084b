"""What is made from the real data before, or beside, distilling: experts, teachers, rankings, scores, selections."""
