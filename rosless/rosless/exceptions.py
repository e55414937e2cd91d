"""rclpy.exceptions: errors of names, parameters and entities."""


class InvalidHandle(Exception):
    """The entity was destroyed."""


class NotInitializedException(Exception):
    """rclpy.init() has not been called, or the context was shut down."""

    def __init__(self, message: str = ''):
        super().__init__(f'rclpy.init() has not been called: {message}')


class ROSInterruptException(Exception):
    """An operation ended because the context was shut down."""

    def __init__(self):
        super().__init__('rclpy.shutdown() has been called')


class NameValidationException(Exception):
    """A name does not follow the rules of ROS; `name_type` says which kind of name."""

    name_type = 'name'

    def __init__(self, name: str, error_msg: str):
        super().__init__(f'Invalid {self.name_type} {name!r}: {error_msg}')


class InvalidNamespaceException(NameValidationException):
    """A namespace breaks the rules."""

    name_type = 'namespace'


class InvalidNodeNameException(NameValidationException):
    """A node name breaks the rules."""

    name_type = 'node name'


class InvalidTopicNameException(NameValidationException):
    """A topic name breaks the rules."""

    name_type = 'topic name'


class InvalidServiceNameException(NameValidationException):
    """A service name breaks the rules."""

    name_type = 'service name'


class ParameterException(Exception):
    """Base of the errors that concern parameters."""

    def __init__(self, error_msg: str, parameters):
        super().__init__(f'{error_msg}: {parameters}')


class ParameterNotDeclaredException(ParameterException):
    """An undeclared parameter was used."""

    def __init__(self, parameters):
        super().__init__('Invalid access to undeclared parameter(s)', parameters)


class ParameterAlreadyDeclaredException(ParameterException):
    """A parameter was declared twice."""

    def __init__(self, parameters):
        super().__init__('Parameter(s) already declared', parameters)


class InvalidParameterException(ParameterException):
    """A parameter has an invalid name."""

    def __init__(self, parameter_name: str):
        super().__init__('Invalid parameter name', parameter_name)


class InvalidParameterTypeException(ParameterException):
    """A default or an override has another type than the declaration."""

    def __init__(self, parameter, expected_type: str):
        super().__init__(
            f'Parameter {parameter.name!r} is of type {expected_type}, '
            f'not {parameter.type_.name}: {parameter.value!r}',
            parameter.name,
        )


class InvalidParameterValueException(ParameterException):
    """A default or an override was refused by the descriptor or a callback."""

    def __init__(self, parameter: str, value, reason: str):
        super().__init__(f'Invalid parameter value ({value}). Reason: {reason}', parameter)


class ParameterImmutableException(ParameterException):
    """A read-only parameter cannot be undeclared."""

    def __init__(self, parameter_name: str):
        super().__init__('Attempted to modify read-only parameter', parameter_name)


class ParameterUninitializedException(ParameterException):
    """A parameter declared by type only has no value yet."""

    def __init__(self, parameter_name: str):
        super().__init__('The parameter is not initialized', parameter_name)
