"""What continuous integration needs beside the build tool."""
