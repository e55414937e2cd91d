"""From images, history and route to the patches and token ids of a prompt, and from ids to text."""
