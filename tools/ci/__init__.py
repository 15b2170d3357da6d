"""Parts of continuous integration beside the build tool."""
