/* No licence line. */
int x;
